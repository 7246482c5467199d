//! Clients of the simulated cluster: engines, routers, watchers.
