"""One folder a host: an adapter, a configuration overlay and a README. Importable as ``prism_plugin.integrations``."""
