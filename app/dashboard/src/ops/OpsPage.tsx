export default function OpsPage() { return <main className="page" id="main" tabIndex={-1}><h1>Ops</h1></main>; }
