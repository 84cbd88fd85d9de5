"""Exact search from memory on SQLite, never stale.

In the order of the work:

- `segments` packs stored vectors into int8 with a bound on the error,
- `state` holds the rows of a collection as of one row of the change log,
- `cache` keeps states within a number of bytes, `build` makes them,
- `turns` has one search at a time read a collection's rows, while the others wait for it,
- `kinds` tells what the rows are packed as: these, or the codes of an index (see `index`),
- `kernel` and `candidates` choose the rows that may be among the best,
- `statements` ask the database for these rows and for the session's place in the log,
- `rescore` scores the rows exactly, and reads no more of them than that takes,
- `search` puts it together, and `memory` tells of it.
"""
