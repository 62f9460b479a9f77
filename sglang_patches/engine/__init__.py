"""Subclasses of SGLang's classes, one file per upstream class, each bound where SGLang looks its name up."""
