"""Put things on a model and take them off again, whatever happens meanwhile."""
