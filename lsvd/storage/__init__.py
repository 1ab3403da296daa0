"""Files written whole or not at all, and results kept on disk."""
