"""The specification's test script: whether a deployment does what it must, tried and not assumed."""
