"""The dashboard of PrefillShare, a terminal program that reads a running server over HTTP.

Only the package exists so far; the dashboard comes with an issue of its own. It will import neither torch nor SGLang.
"""
