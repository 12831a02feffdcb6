"""TD-MPC2 (Hansen et al., "TD-MPC2: Scalable, robust world models for continuous control")."""
