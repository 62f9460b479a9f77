"""The dashboard of PrefillShare: a terminal program that reads a running deployment over HTTP.

Run: `prefillshare top`, or `python -m prefillshare_tui`. It imports neither torch nor SGLang nor the server's packages.

Data flow: client -> Snapshot -> message -> reactive View -> widgets. What is shown is computed in pure modules
(totals, history, view, charts, tables); widgets only draw.
"""
