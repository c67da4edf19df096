"""The vault: a corridor of locked doors, and the tiny policy that is pre-trained to walk it."""
