from app.distributed.flow_settings import ConfigManager as ConfigManager
