from app.distributed.databases import DatabaseManager as DatabaseManager
