"""A disaggregated deployment on the nodes of a Ray cluster.

Ray only places: one detached actor for each worker and router runs what `prefillshare worker` and `prefillshare router`
run, with the same supervisor, and Ray starts the actor anew elsewhere when its node is lost. No call and no KV goes
through Ray. There is no process that manages the others: the actors of a deployment, by name, are all that is known of
it, so any command on any machine that reaches the cluster sees and changes the same.
"""
