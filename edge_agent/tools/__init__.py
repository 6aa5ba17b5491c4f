"""What a person needs in the first ten minutes: scan, browse, explain, and the tag table.

Each command has one file that talks to devices and files, and beside it pure ones that decide.
"""
