//! The run state machine from outside: rules one by one, and random workflows on a simulated node.

mod build;
mod planner;
mod rules;
mod scale;
mod script;
mod simulation;
