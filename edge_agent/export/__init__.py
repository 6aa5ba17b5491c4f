"""``edge-agent export``: stored rows as files that others read, in a process of its own.

``source.py`` finds the rows: those of the log are sorted by stream on disk first (``spool.py``), so
memory stays small and a file is written in one go; those of the history are read stream by stream.
``parts.py`` is what both kinds of files have in common, ``table_csv.py`` and ``table_parquet.py``
write them, ``command.py`` puts it together and writes the manifest.
"""
