"""A fuzzer: each part does odd things at random, and all of it can be repeated by its seed."""
