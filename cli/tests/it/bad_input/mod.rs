//! Bad input, through the binary or over the wire: the code and the field are asserted, and that the next valid request
//! (or start) succeeds.

mod agent_calls;
mod command_line;
mod config;
mod damage;
mod garbage;
mod half_sent;
mod l3;
pub(super) mod live;
mod meta_calls;
mod run;
mod starts;
mod vanish;
mod versions;
