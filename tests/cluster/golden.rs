//! Golden scripts: what a cluster says to itself, line by line. A changed line is a changed
//! protocol: look at it, then rewrite the files with `UPDATE_GOLDENFILES=1 cargo test golden`.
//!
//! Commands: `found NODES`, `run MS`, `ask nX COUNT`, `crash nX`, `start nX`, `cut nX nY`, `heal`,
//! `handover nX`, `roles`.

use std::{error::Error, time::Duration};

use crate::world::{CALM, World};

struct Script {
    world: World,
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        self.world.trace.clear();
        let mut arguments = command.consume_args();
        let node = |text: &str| -> Result<usize, Box<dyn Error>> {
            Ok(text.strip_prefix('n').ok_or("a node is n1, n2, …")?.parse::<usize>()? - 1)
        };
        let mut next = || -> Result<String, Box<dyn Error>> {
            Ok(arguments.next_pos().ok_or("an argument is missing")?.to_owned())
        };
        match command.name.as_str() {
            "found" => {
                let nodes = next()?.parse()?;
                self.world = World::new(0, nodes, CALM);
                self.world.record_messages = true;
                (0..nodes).for_each(|index| self.world.start(index));
                let founded = self.world.run_until(Duration::from_secs(2), World::is_settled);
                assert!(founded, "{}", self.world.trace.join("\n"));
            }
            "run" => self.world.run_for(Duration::from_millis(next()?.parse()?)),
            "ask" => {
                let index = node(&next()?)?;
                let count: usize = next()?.parse()?;
                (0..count).for_each(|_| self.world.ask(index, 100));
                self.world.run_for(Duration::from_millis(5));
            }
            "crash" => self.world.crash(node(&next()?)?),
            "start" => self.world.start(node(&next()?)?),
            "cut" => {
                let (from, to) = (node(&next()?)?, node(&next()?)?);
                self.world.cut(from, to);
                self.world.cut(to, from);
            }
            "heal" => self.world.heal(),
            "handover" => {
                let index = node(&next()?)?;
                let heir = self.world.hand_over(index);
                self.world.run_for(Duration::from_millis(100));
                assert!(heir, "somebody can take the lead");
            }
            "roles" => {
                for index in 0..self.world.len() {
                    let (view, id) = (self.world.view(index).clone(), self.world.id(index));
                    let line = match self.world.is_up(index) {
                        true => format!(
                            "{id} {:?} of {:?}, last {}, released {}",
                            view.role,
                            view.leader,
                            self.world.last_lsn(index),
                            self.world.released(index)
                        ),
                        false => format!("{id} down"),
                    };
                    self.world.trace.push(line);
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(self.world.trace.join("\n"))
    }
}

fn golden(name: &str) {
    let path = format!("tests/cluster/golden/{name}.txt");
    goldenscript::run(&mut Script { world: World::new(0, 1, CALM) }, path)
        .expect("the script runs");
}

#[test]
fn founding() {
    golden("founding");
}

#[test]
fn take_over() {
    golden("take_over");
}

#[test]
fn adoption() {
    golden("adoption");
}

#[test]
fn handover() {
    golden("handover");
}
