"""Several routers of one deployment: each session belongs to one of them, and whoever is asked passes its calls there.

    client --> router B --one hop--> router A, the session's owner --> prefill and decode worker

So what a router knows of a session (its prefill worker, what workers hold of its prompts, what is computed ahead) is
in one place, and any router answers any call. Who owns a session is a matter of the routers' addresses and the
session's name alone: nobody hands anything out, and a router that is lost or back moves its own sessions only.

    ownership   whose session a call is of
    hop         the mark of a call that has been passed on, and is not passed on again
    peer        another router: is it up, what did it tell last, which calls are on their way to it
    exchange    asks the others, all the time, whether they are there and what they have at the workers
    forward     passes a call on
"""
