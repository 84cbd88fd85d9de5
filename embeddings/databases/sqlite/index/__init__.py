"""Indexes on SQLite: codes of all rows in memory, of which the nearest are scored exactly.

They live by the same rules as the exact matrix, and by its machinery (see `matrix`): what is packed
differs, and how the rows are chosen that may be among the best.

- `method` is the port for methods, of which `bits` is built in; `registry` knows others,
- `segments` hold rows as the codes of a method,
- `chosen` are the rows that a method finds, read until no other is likely to be among the best,
- `kind` tells the matrix to keep and search these,
- `names` says which collections have an index, `stored` keeps it packed in the database,
- `commands` make, drop and describe it.
"""
