"""DreamerV3 (Hafner et al., "Mastering diverse control tasks through world models")."""
