"""How the demo models were made: data, training, features. Not needed to run them."""
