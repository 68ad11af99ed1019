//! The rules one by one, each in the smallest run that shows it.

mod endings;
mod failures;
mod gates;
mod hostile;
mod options;
mod parts;
mod slots;
mod switches;
