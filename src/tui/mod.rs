//! The dashboard: reads, draws, never decides and never writes.
//!
//! One loop takes what happens (keys, the mouse, time, answers of the loader, signals), hands it to the pure
//! [`app::App::update`], carries out what that returns, and draws if something has changed. A thread reads the pages, so
//! that a slow disk never holds up a key. Text of strangers goes through [`tame`] before it is on the screen.

pub mod app;
pub mod demo;
pub mod draw;
pub mod event;
pub mod headless;
pub mod keys;
pub mod loader;
pub mod plain;
pub mod roles;
pub mod run;
pub mod source;
pub mod svg;
pub mod tame;
pub mod terminal;
pub mod theme;
pub mod view;
