mod mapped;
mod region;
