"""Rows out of data files of any origin: what cannot be read is said row by row, and never ends the reading."""

from prefillshare.datafiles.files import read_rows
from prefillshare.datafiles.keep import keep, require_text, summarise_left_out
from prefillshare.datafiles.rows import BadRow, Row

__all__ = ["BadRow", "Row", "keep", "read_rows", "require_text", "summarise_left_out"]
