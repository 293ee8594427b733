"""Real weights and real data from package indexes: fetched, and converted to ordinary folders and chats."""
