"""Studies: grids of trainings, their results and tables. The study files are the *.toml here."""
