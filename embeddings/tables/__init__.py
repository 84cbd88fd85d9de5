"""What is stored: the columns, the mapped records, hosts' own records, migrations."""
