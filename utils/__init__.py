"""What every room uses: configuration, training loop, metrics, attackers, run folders, figures."""
