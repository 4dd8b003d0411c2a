"""The database: where it is, how to connect, how its schema gets there."""
