//! Java 17: HttpServer with HttpClient (NIO), and blocking sockets closed by another thread.

use super::bed::Bed;
use super::common::proc::wait_until;

/// One file, two roles. The server answers POSTs with the sum of their bytes, and also serves
/// plain sockets on the next port: a thread that waits in `accept` there must be released when
/// another closes its socket.
const PROGRAM: &str = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.*;
import java.net.http.*;
import java.util.*;
import java.util.concurrent.*;

public class Both {
  static long sum(byte[] bytes) { long sum = 0; for (byte b : bytes) sum += b & 255; return sum; }
  public static void main(String[] args) throws Exception {
    if (args.length == 0) serve(); else ask(args[0]);
  }
  static void serve() throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", 8004), 50);
    server.createContext("/", exchange -> {
      byte[] answer = Long.toString(sum(exchange.getRequestBody().readAllBytes())).getBytes();
      exchange.sendResponseHeaders(200, answer.length);
      exchange.getResponseBody().write(answer);
      exchange.close();
    });
    server.setExecutor(Executors.newFixedThreadPool(4));
    server.start();
    ServerSocket plain = new ServerSocket(8005, 50, InetAddress.getByName("0.0.0.0"));
    Thread accepting = new Thread(() -> {
      try {
        while (true) {
          Socket socket = plain.accept();
          if (socket.getInputStream().read() == 'q') { socket.close(); break; }
          socket.getOutputStream().write("plain".getBytes());
          socket.close();
        }
        new Thread(() -> {
          try { Thread.sleep(200); plain.close(); } catch (Exception e) {}
        }).start();
        plain.accept();
        System.out.println("accept returned");
      } catch (SocketException expected) {
        System.out.println("released");
      } catch (Exception unexpected) {
        System.out.println(unexpected);
      }
    });
    accepting.start();
    System.out.println("serving");
  }
  static void ask(String host) throws Exception {
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    List<CompletableFuture<Boolean>> asked = new ArrayList<>();
    for (int n = 0; n < 40; n++) {
      byte[] body = new byte[1 + n * 5000];
      new Random(n).nextBytes(body);
      HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + host + ":8004/"))
          .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
      asked.add(client.sendAsync(request, HttpResponse.BodyHandlers.ofString())
          .thenApply(response -> response.body().equals(Long.toString(sum(body)))));
    }
    for (CompletableFuture<Boolean> one : asked)
      if (!one.get(30, TimeUnit.SECONDS)) throw new Exception("a wrong sum");
    try (Socket socket = new Socket(host, 8005)) {
      socket.getOutputStream().write('p');
      String text = new String(socket.getInputStream().readAllBytes());
      if (!text.equals("plain")) throw new Exception(text);
    }
    System.out.println("done");
    System.exit(0);
  }
}
"#;

#[test]
fn http_and_plain_sockets() {
    let Some(bed) = Bed::new(&["java", "javac"], 1) else {
        return;
    };
    bed.write("Both.java", PROGRAM);
    let mut compiler = std::process::Command::new("javac");
    compiler
        .args(["-J-Xshare:auto", "Both.java"])
        .current_dir(bed.folder.path());
    super::common::netns::checked(&mut compiler);
    let java = [
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-Xmx128m",
        "Both",
    ];
    let mut server = bed.server(bed.serving("8004,8005"), &java);
    wait_until("the server", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("serving")
    });
    bed.wait_for_sockets(1, &["LISTEN", ":8004 ", " luna "]);
    bed.wait_for_sockets(1, &["LISTEN", ":8005 ", " luna "]);
    let address = bed.pair.a_end.v4.to_string();
    let mut words = java.to_vec();
    words.push(&address);
    bed.quiet("java", || {
        for report in bed.both(&words) {
            assert_eq!(report.trim(), "done");
        }
        let quit = bed.pair.b.enter(|| {
            use std::io::Write as _;
            let mut socket = std::net::TcpStream::connect(bed.at(8005)).expect("connect");
            socket.write_all(b"q")
        });
        quit.expect("write");
    });
    wait_until("the thread in accept to be released", || {
        server.stdout().contains("released")
    });
    assert!(server.ended().is_none(), "{}", server.report());
}
