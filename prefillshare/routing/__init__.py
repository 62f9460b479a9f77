"""The router of the disaggregated topology: one HTTP address before prefill and decode workers.

Run it with `python -m prefillshare.routing SETTINGS.json`, or serve `web.app.make_app(settings)` by
`web.connections.make_runner`.
A call names a decode module; the router sends it to one prefill worker and one replica of that module at once and
passes the decode worker's answer on, byte for byte. Starting and restarting workers is not its business.
"""
