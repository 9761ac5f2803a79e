# Varnish in front of the cache nodes, as one more tier: what it has once fetched
# it serves with all of oncekv down. Tried with Varnish 7.1:
#
#   varnishd -a :80 -f /etc/varnish/oncekv.vcl -s malloc,4g -s large=file,/var/lib/varnish/large,50g
#
# Replace the three addresses, and the name kv.example.com, which the cache nodes get
# as --allowed-hosts; docs/proxies.md says why the rest is as it is.
vcl 4.1;

import directors;
import std;

# /livez, not /readyz: a cache node that reaches no database node is not ready, and
# goes on serving what it holds.
probe alive {
    .url = "/livez";
    .interval = 1s;
    .timeout = 2s;
    .window = 4;
    .threshold = 2;
    .initial = 2;
}

backend c1 {
    .host = "10.0.0.11";
    .port = "5551";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;     # a node answers within 10 s
    .between_bytes_timeout = 30s;  # a stream says something every 5 s
}

backend c2 {
    .host = "10.0.0.12";
    .port = "5551";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 30s;
}

backend c3 {
    .host = "10.0.0.13";
    .port = "5551";
    .probe = alive;
    .connect_timeout = 1s;
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 30s;
}

sub vcl_init {
    # Cache nodes only: they find values wherever they are, hand puts and lists on,
    # and never members or leadership.
    new nodes = directors.round_robin();
    nodes.add_backend(c1);
    nodes.add_backend(c2);
    nodes.add_backend(c3);
}

sub vcl_recv {
    # Names by which this server is asked, besides addresses. By any other one a web
    # page could pass itself off as this server, and read all that it keeps.
    if (req.http.Host !~ "(?i)^(kv\.example\.com|localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?$") {
        return (synth(421));
    }

    set req.backend_hint = nodes.backend();

    # Nothing here depends on cookies, and with one Varnish would keep nothing.
    unset req.http.Cookie;

    # Streams: changes may follow for ever, and results of many puts come while these
    # are still sent. A pipe is as slow as its reader and keeps nothing in memory.
    if (req.url ~ "^/changes(\?|$)" || (req.method == "POST" && req.url == "/keys")) {
        return (pipe);
    }

    if (req.method == "GET" || req.method == "HEAD") {
        # Varnish would refuse several ranges at once; all of the value is right too.
        if (req.http.Range ~ ",") {
            unset req.http.Range;
        }
        return (hash);
    }

    # A small put that fails at one node is tried at the next, under one name, so that
    # it is not taken for a rival of itself.
    if (req.method == "PUT" && std.integer(req.http.Content-Length, 1048577) <= 1048576) {
        std.cache_req_body(1MB);
        if (!req.http.Oncekv-Put-Id) {
            set req.http.Oncekv-Put-Id = "varnish-" + std.time2real(now, 0) + "-" + req.xid + "-" + std.random(0, 1000000000);
        }
    }
    return (pass);
}

sub vcl_hash {
    # The target byte for byte, whatever the host is called.
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    # What may be kept, and how long, is what the node says: values for a year.
    # Anything else is passed on, and for a while no request waits for another's
    # answer under that key; the first value ends that.
    if (beresp.status != 200 || beresp.http.Cache-Control ~ "(?i)no-store|private") {
        set beresp.ttl = 2m;
        set beresp.uncacheable = true;
    }
    # Large values have room of their own, or a few would push out all the small ones.
    if (!beresp.uncacheable && std.integer(beresp.http.Content-Length, 0) > 1048576) {
        set beresp.storage = storage.large;
    }
    # After the year values are what they were.
    set beresp.grace = 30d;
    return (deliver);
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
    unset resp.http.X-Varnish;
    unset resp.http.Via;
}

sub vcl_synth {
    if (resp.status == 421) {
        set resp.http.Content-Type = "application/problem+json";
        set resp.http.Cache-Control = "no-store";
        set resp.http.X-Content-Type-Options = "nosniff";
        set resp.body = """{"type":"urn:oncekv:problem:misdirected","title":"Not a name of this node","status":421,"detail":"the proxy is not asked by this name; its configuration lists those it has"}""";
        return (deliver);
    }
}

# What Varnish says itself when no node answers it: a read was not served; a put may
# or may not have happened.
sub vcl_backend_error {
    if (bereq.retries < 2 && (bereq.method == "GET" || bereq.http.Oncekv-Put-Id)) {
        return (retry);
    }
    set beresp.http.Content-Type = "application/problem+json";
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.X-Content-Type-Options = "nosniff";
    if (bereq.method == "GET" || bereq.method == "HEAD") {
        set beresp.status = 503;
        set beresp.reason = "Service Unavailable";
        set beresp.body = """{"type":"urn:oncekv:problem:unavailable","title":"Unavailable","status":503,"detail":"no cache node answers the proxy, which serves only what it keeps"}""";
    } else {
        set beresp.status = 504;
        set beresp.reason = "Gateway Timeout";
        set beresp.body = """{"type":"urn:oncekv:problem:outcome-unknown","title":"Outcome unknown","status":504,"detail":"no cache node answered the proxy; repeat the same request"}""";
    }
    return (deliver);
}
