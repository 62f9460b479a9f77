"""A deployment over three hosts, which are namespaces of this machine, and what happens when parts of it die."""
