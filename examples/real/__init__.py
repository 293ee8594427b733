"""Real weights and real data from package indexes: fetched, converted, and given as ordinary folders and chats."""
