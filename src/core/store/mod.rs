//! SQLite: one writer, many readers; the only room that knows SQL.
