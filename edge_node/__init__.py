"""The device role: pulls the global model, trains locally, and delivers updates until they are receipted."""
