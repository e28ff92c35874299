"""Stand-ins for images: what answers in a container that has no process.

Owns what the responder process says. May import the standard library and model only, because the responder is forked
before anything heavy is loaded. Must never run a command by itself.
"""
