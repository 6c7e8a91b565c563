//! Links between processes: WebSocket sessions and HTTP.
