"""The vocabulary: kinds, names, marks, configuration, selectors, errors.

Owns the words every other package speaks. May import the standard library and, in ``manifests``, PyYAML. Must
never do I/O, read a clock, or draw a random number.
"""
