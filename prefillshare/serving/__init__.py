"""From a deployment to running processes. SGLang is started as a program and never imported here.

`machine` is what this machine has, `plan` makes workers and their commands of a deployment, `run` starts them and looks
after them. On top of these, `launch` starts a deployment of either topology and `stopping` ends it, `checkup` examines
the machine, `client` talks to a server. `options` is what a user chooses about a launch.
"""
