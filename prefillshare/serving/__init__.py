"""From a deployment to a running engine.

`arguments` turns the configuration into the engine's command line, `process` owns the engine's processes, `launch`
starts one and waits until it answers, `client` talks to it. SGLang is started as a program and never imported here.
"""
