//! TLS for the tests: a certificate that signs itself, and stunnel, which speaks TLS for a plain TCP client.
//! Forbidden here: keys and certificates that outlive their test.

use std::fs;
use std::io::Result;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::builder::{free_port, new_folder};
use super::pairs::Kamailio;
use super::sip::{Tcp, WebSocket};
use super::wait::found;

/// Until stunnel listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A key and a certificate for it in a folder of their own.
pub struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    #[track_caller]
    pub fn new(kamailio: &Kamailio) -> Certificate {
        let certificate = Certificate {
            folder: new_folder(),
        };
        let settings = certificate.folder.join("openssl.cnf");
        fs::write(&settings, "[req]\ndistinguished_name=dn\n[dn]\n").expect("a folder of ours");
        let output = Command::new(kamailio.sibling("openssl"))
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ])
            .args(["-newkey", "rsa:2048"])
            .arg("-config")
            .arg(settings)
            .arg("-keyout")
            .arg(certificate.key())
            .arg("-out")
            .arg(certificate.file())
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{output:?}");
        certificate
    }

    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// stunnel in front of a TLS server: each TCP connection to it becomes a TLS connection to the server.
pub struct Tunnel {
    address: SocketAddr,
    folder: PathBuf,
    child: Child,
}

impl Tunnel {
    #[track_caller]
    pub fn to(kamailio: &Kamailio, server: SocketAddr) -> Tunnel {
        assert!(server.ip().is_loopback(), "tests talk to loopback only");
        let (folder, address) = (new_folder(), free_port());
        let settings = folder.join("stunnel.conf");
        let text = format!(
            "foreground=quiet\npid=\ndebug=3\n[sip]\nclient=yes\naccept={address}\nconnect={server}\nTIMEOUTclose=0\n"
        );
        fs::write(&settings, text).expect("a folder of ours");
        let child = start(&kamailio.sibling("stunnel"), &settings);
        let tunnel = Tunnel {
            address,
            folder,
            child,
        };
        found(START_LIMIT, "stunnel listens", || Tcp::try_to(address).ok());
        tunnel
    }

    /// Where it listens for plain TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client whose bytes travel through TLS.
    #[track_caller]
    pub fn client(&self) -> Tcp {
        Tcp::to(self.address)
    }

    /// A WebSocket whose frames travel through TLS.
    pub fn try_websocket(&self) -> Result<WebSocket> {
        WebSocket::try_through(self.address)
    }

    /// As `client`; an error where the server has turned the TLS connection away already.
    pub fn try_client(&self) -> Result<Tcp> {
        Tcp::try_to(self.address)
    }
}

fn start(stunnel: &Path, settings: &Path) -> Child {
    let mut command = Command::new(stunnel);
    command
        .arg(settings)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("stunnel can be started")
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
