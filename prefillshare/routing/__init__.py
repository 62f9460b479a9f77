"""The router of the disaggregated topology: one HTTP address before prefill and decode workers.

Run it with `python -m prefillshare.routing SETTINGS.json`, or serve `web.app.make_app(settings)` by
`web.connections.make_runner`.
A call names a decode module; the router sends it to one prefill worker and one replica of that module at once and
passes the decode worker's answer on, byte for byte. Of a module that computes its prompts itself, an engine gets the
whole call. Starting and restarting workers is not its business.

Its rooms, each of which imports only those below it; `parts.py` makes what is in them, `gateway.py` lets workers join
and leave:

    web      HTTP: connections, keys, bodies, one handler per path
    peers    other routers of the deployment: whose session a call is of, and passing it on
    call     one call: read, tried on pairs of workers in two legs each, relayed
    choice   which workers take a call, and when: policies, prefix index, sessions, queues
    workers  what they are and how they are: health, breaker, speed, the client that talks to them

The way of a call, from file to file:

    web/connections, direct                                 an ordinary call, read in one go, or not:
    web/app, auth, handlers/calls, bodies                   is it HTTP, who asks, the body
    call/parse                                              what it asks for, or why not
    peers/forward                                           with several routers: is it another one's
    call/proxy                                              counted, traced, tried until an answer comes
    choice/admission, chooser                               its turn, and a reserved pair of workers
    call/attempt, legs, prefill_leg                         both legs, by workers/client
    call/whole                                              or one leg: to an engine, whose module shares no prompts
    call/relay                                              the answer, piece by piece until its end

What is made anew for each call and handed on is never changed, but is no frozen dataclass: one of those takes three
times as long to make, and a call has a dozen.
"""
