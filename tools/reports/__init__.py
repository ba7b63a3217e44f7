"""The page of tools/report.py: what it shows, as plain values, and the template that shows it.

One module per kind of section; page.html.jinja, page.css and page.js are what the browser gets.
"""
