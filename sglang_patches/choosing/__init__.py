"""Which module answers, where the prefill module must see the prompt first: ``[aliases.NAME]`` with a classifier.

Before such a call goes on, the prefill module is asked for no token of its prompt, as the call renders it, and the
hidden state of the prompt's last token comes back: a *choice*, a request of its own. The call that follows finds the
prompt's KV in the tree.

    call    HTTP body --> choice: x_1 .. x_n by the prefill module --> its state of x_n --> classifier --> module
                                  `- x_1 .. x_{n-1} in the tree <------------------------- the call, with that module

x_n is computed in the choice whatever is cached, for its state is nowhere else; that token is what a choice costs, and
a round of the scheduler.
"""
