"""pyatm: the async task manager of oVirt, rebuilt around PostgreSQL."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pyatm")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
