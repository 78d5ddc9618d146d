"""Mail that comes back: parsers of bounces and complaints. What follows is a flow."""
