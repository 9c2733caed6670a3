"""What setup.py needs to know to build wanhook's native part against the torch that is installed."""
