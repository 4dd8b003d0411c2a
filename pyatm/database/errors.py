"""What can go wrong on the way to a database. Messages are for the user and name the fix."""


class DatabaseError(Exception):
    """Base of the errors of this package."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL server cannot be started, reached or stopped."""


class DsnError(DatabaseError):
    """The connection string is not one that libpq understands."""


class MigrationError(DatabaseError):
    """The schema cannot be brought to this program's version."""
