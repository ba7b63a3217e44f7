"""One module per data set, or form of data set. Each defines:

DESCRIPTION          one line for --help
SIZE                 default of --size
add_arguments(p)     adds its own options
name(args)           name of the data set, e.g. cub_bbox
open_source(args)    records.Source; raises UserError if the archive is incomplete or damaged
"""

from data_prep.readers import aircraft, cards, cars, cub, folder, table

READERS = {
    "cub": cub,
    "cars": cars,
    "aircraft": aircraft,
    "cards": cards,
    "folder": folder,
    "table": table,
}
