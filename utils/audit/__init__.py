"""Attacks: the attackers, and who trains and tests them."""
